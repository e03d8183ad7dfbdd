"""Spark, for tables that have outgrown one machine: a Spark DataFrame, or files that Spark reads itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from auditkit._extras import import_extra
from auditkit._tables import MISSING_TEXTS, check_names_unique
from auditkit.engines.base import SOURCE, Column, Engine, Kind, OutOfRangeError
from auditkit.errors import InputError

_INTEGERS = {"tinyint", "smallint", "int", "bigint"}
_RANGE_ERRORS = ("CAST_OVERFLOW", "CAST_INVALID_INPUT", "ARITHMETIC_OVERFLOW")


class SparkEngine(Engine):
    """A table in Spark.

    Args:
        table: A Spark DataFrame, or one or several paths of .parquet or .csv files; Spark's own patterns and URLs work.
            Paths are read in the active session, or in a local one when there is none.

    Raises:
        MissingExtraError: pyspark is not installed.
        InputError: The table is none of these, or cannot be read.
        SchemaError: Two columns have the same name.
    """

    ordered = False

    def __init__(self, table: Any) -> None:
        self._errors = import_extra("pyspark.errors")
        self._frame = self._read(table) if isinstance(table, str | Path | list | tuple) else table
        if not hasattr(self._frame, "createOrReplaceTempView"):
            raise InputError(f'with engine "spark", table must be a path or a Spark frame; got {type(table).__name__}')
        self._session = self._frame.sparkSession
        self._view = f"auditkit_{uuid.uuid4().hex}"
        self._kept: Any = None
        self.names = tuple(self._frame.columns)
        self.files = self._local_files() if isinstance(table, str | Path | list | tuple) else ()
        self.source = f"{table!r}" if isinstance(table, str | Path) else "the Spark frame"
        check_names_unique(self.names, self.source)

    def bind(self, names: Iterable[str]) -> Mapping[str, Column]:
        """As `Engine.bind`."""
        aliased = self._frame.toDF(*[f"c{position}" for position in range(len(self.names))])
        aliased.createOrReplaceTempView(self._view)
        types = dict(zip(self.names, (kind for _, kind in aliased.dtypes), strict=True))
        return {name: Column(f"c{self.names.index(name)}", _kind(types[name]), types[name]) for name in names}

    def query(self, statement: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """As `Engine.query`."""
        with self._errors_named():
            return [tuple(row) for row in self._ask(statement, parameters).collect()]

    def keep(self, statement: str, parameters: Sequence[Any] = ()) -> str:
        """As `Engine.keep`, in memory and on the disks of the cluster."""
        self._release()
        with self._errors_named():
            self._kept = self._ask(statement, parameters).persist()
            self._kept.count()  # fills what is kept, so that a number out of range is found here
        self._kept.createOrReplaceTempView(f"{self._view}_kept")
        return f"{self._view}_kept"

    def _ask(self, statement: str, parameters: Sequence[Any]) -> Any:
        text = statement.replace(f"FROM {SOURCE}", f"FROM {self._view}")
        return self._session.sql(text, args=list(parameters) or None)

    @contextmanager
    def _errors_named(self) -> Iterator[None]:
        try:
            yield
        except self._errors.PySparkException as error:
            if any(name in str(error) for name in _RANGE_ERRORS):
                raise OutOfRangeError(str(error)) from error
            raise InputError(f"{self.source} cannot be read: {' '.join(str(error).split())[:300]}") from error

    def _release(self) -> None:
        if self._kept is not None:
            self._session.catalog.dropTempView(f"{self._view}_kept")
            self._kept.unpersist()
            self._kept = None

    def integer(self, expression: str) -> str:
        """As `Engine.integer`; Spark's cast alone would cut off."""
        return f"CAST(rint({expression}) AS BIGINT)"

    def integer_total(self, expression: str) -> str:
        """As `Engine.integer_total`; sums of BIGINT are 64 bits wide in Spark, those of decimals 30 digits."""
        return f"sum(CAST({self.integer(expression)} AS DECIMAL(20, 0)))"

    def close(self) -> None:
        """Drop the views; the session is the caller's."""
        self._release()
        self._session.catalog.dropTempView(self._view)

    def _local_files(self) -> tuple[str, ...]:
        """The files that were named, sorted; none where one of them is not on this machine."""
        urls = [urlsplit(url) for url in self._frame.inputFiles()]
        here = all(url.scheme in ("", "file") for url in urls)
        return tuple(sorted(unquote(url.path) for url in urls)) if here else ()

    def _read(self, table: Any) -> Any:
        sql = import_extra("pyspark.sql")
        paths = [str(path) for path in ([table] if isinstance(table, str | Path) else table)]
        session = sql.SparkSession.getActiveSession() or start_local_session()
        try:
            if all(path.endswith(".csv") for path in paths):
                frame = session.read.csv(paths, header=True, inferSchema=True, mode="FAILFAST", escape='"')
                return frame.replace(list(MISSING_TEXTS), None)
            return session.read.parquet(*paths)
        except self._errors.PySparkException as error:
            raise InputError(f"{paths[0]!r} cannot be read by Spark: {' '.join(str(error).split())[:300]}") from error


def start_local_session() -> Any:
    """A Spark session on this machine alone, without its web page, that listens to nobody else.

    Raises:
        MissingExtraError: pyspark is not installed.
        InputError: Spark does not start; it needs Java 17 or newer.
    """
    sql = import_extra("pyspark.sql")
    settings = {
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "8",
    }
    builder = sql.SparkSession.builder.master("local[*]").appName("auditkit")
    for key, value in settings.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except Exception as error:
        raise InputError(f"Spark does not start; it needs Java 17 or newer ({error})") from error


def _kind(type_name: str) -> Kind:
    if type_name in _INTEGERS:
        return "integer"
    if type_name in {"float", "double"} or type_name.startswith("decimal"):
        return "number"
    if type_name == "boolean":
        return "boolean"
    return "text" if type_name in {"string", "void"} or type_name.startswith(("char", "varchar")) else "other"
