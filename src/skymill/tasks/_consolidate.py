"""What the tasks that join the tables of the CCDs of a visit share."""

from __future__ import annotations

from typing import Any, ClassVar

from astropy.table import Table
from lsst.pipe.base import NoWorkFound, PipelineTask, Struct

from skymill.calibrate.visit_table import join_tables

__all__ = ["ConsolidateTask"]


class ConsolidateTask(PipelineTask):
    """Join the source tables of the CCDs of a visit."""

    #: Schema of the joint table.
    schema: ClassVar[str]

    def run(self, inputCatalogs: list[Table], **_: Any) -> Struct:
        """Join the tables.

        Parameters
        ----------
        inputCatalogs : list of Table
            One for each CCD.

        Returns
        -------
        lsst.pipe.base.Struct
            ``outputCatalog``, sorted by detector.
        """
        if not inputCatalogs:
            raise NoWorkFound("no CCD of this visit has a source table")
        return Struct(outputCatalog=join_tables(inputCatalogs, schema=self.schema))
