"""What the SQL operations take and give. An unknown field is an error, perhaps a typing mistake."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType


class Statement(msgspec.Struct, forbid_unknown_fields=True):
    """Params of query and execute: one statement, with ``?`` or ``:name`` placeholders."""

    sql: Annotated[str, Meta(min_length=1)]
    params: list[Any] | dict[str, Any] = []
    limit: Annotated[int, Meta(ge=1)] | None = None


class Rows(msgspec.Struct):
    """Result of query, and part of execute's."""

    columns: list[str]
    rows: list[list[Any]]
    truncated: bool


class Executed(msgspec.Struct):
    """Result of execute; columns and rows where the statement has RETURNING."""

    rows_affected: int
    columns: list[str] | UnsetType = UNSET
    rows: list[list[Any]] | UnsetType = UNSET
    truncated: bool | UnsetType = UNSET
