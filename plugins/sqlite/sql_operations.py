"""SQL with bound parameters."""

from collections.abc import Callable

from prism.sdk import Call, operation

from . import params as p
from .authorizer import Access
from .connection import Connection
from .store import Store
from .user_sql import read_parameters, run_statement, show_as_json


class SQLOperations(Store, group="sql"):
    """Clients' own statements."""

    @operation(idempotent=True, access="read")
    async def query(self, params: p.Statement, call: Call) -> p.Rows:
        """Run a statement that only reads."""
        run = self._statement(params, Access.QUERY)
        rows, _ = await self.database.read_long(run)
        if not call.binary:
            show_as_json(rows.rows)
        return rows

    @operation(name="execute", access="write")
    async def run_sql(self, params: p.Statement, call: Call) -> p.Executed:
        """Run a statement that changes data or tables; alone, all or nothing."""
        run = self._statement(params, Access.EXECUTE)
        rows, affected = await self.database.write(run, may_take_long=True)
        if not rows.columns:
            return p.Executed(affected)
        if not call.binary:
            show_as_json(rows.rows)
        return p.Executed(affected, rows.columns, rows.rows, rows.truncated)

    def _statement(
        self, params: p.Statement, access: Access
    ) -> Callable[[Connection], tuple[p.Rows, int]]:
        self.metrics.queries_executed += 1
        parameters = read_parameters(params.params)
        limit = min(params.limit or self.config.max_rows, self.config.max_rows)
        return lambda connection: run_statement(connection, params.sql, parameters, access, limit)
