"""What an update reads, where it writes, and how it trains and builds. Pure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

from encoders.text import model as text_encoder
from index.building.build import DEFAULT_OPTIONS, IndexOptions
from lookalike.credentials import ApiKey
from lookalike.runtime.engine import Engine
from lookalike.runtime.local_engine import LocalEngine
from pipeline import image_encoding
from pipeline.catalogue_report import MaxRejected
from pipeline.tables.reader import DEFAULT_OPTIONS as DEFAULT_TABLE_OPTIONS
from pipeline.tables.reader import TableOptions
from pipeline.text_encoding import KeepTextEncoder, TextEncoderSettings

FEATURE_STORE = ".features"  # Of the computed vectors, in the location of the index.
ARTIFACTS = ".encoders"  # Of trained encoders, in the location of the index.
WORK = ".update"  # Directory of files that an update needs while it runs, in the location of the index.


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """What an update reads, where it writes, and how it trains and builds."""

    catalogue: Path | None  # None: the products that `gateway` serves.
    location: Path  # Where versions are built: the index location or, for a URL, the staging directory.
    artifacts: Path
    connect_encoder: (
        Callable[[], AbstractAsyncContextManager[image_encoding.PhotoEncoder]] | None
    )  # None: no image space.
    feature_store: str | Path  # A URL, or a directory.
    gateway: str = ""  # host:port.
    api_key: ApiKey | None = field(default=None, repr=False)  # Of all gateways.
    photos: Path | None = None  # Where paths of photos are that products of the gateway state; None: nowhere.
    shards: int = 2
    index: IndexOptions = DEFAULT_OPTIONS
    seed: int = 0
    text_kind: str = text_encoder.DEFAULT_KIND
    text_words: Path | None = None  # A fastText .bin file; None: word vectors are trained.
    keep_text_encoder: KeepTextEncoder = KeepTextEncoder.AUTO
    synonyms: tuple[Path, ...] = ()  # Dictionaries of the shop's own, beside the default ones.
    table: TableOptions = DEFAULT_TABLE_OPTIONS  # How the products file is read.
    engine: Engine = field(default_factory=LocalEngine)  # What builds the indexes of shards.
    encode_by_tasks: bool = False  # Photos and texts by tasks of the engine; else by this process.
    drop_unused_features: bool = False  # Vectors that no product of this catalogue needs; others may need them.
    strict: bool = False
    max_rejected: MaxRejected | None = None  # With more rejected rows nothing is built; None: any number.

    @property
    def source(self) -> str:
        """The catalogue as it is named in messages and in the version."""
        return str(self.catalogue) if self.catalogue is not None else self.gateway

    @property
    def text_settings(self) -> TextEncoderSettings:
        return TextEncoderSettings(
            kind=self.text_kind, seed=self.seed, word_vectors=self.text_words, synonyms=self.synonyms
        )
