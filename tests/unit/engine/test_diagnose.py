"""The cause of a failure that only a log knows."""

from skymill.engine.diagnose import explain_failure

LOG = """\
ERROR 2026-01-01 lsst.x: Traceback (most recent call last):
  File "a.py", line 1, in f
    cursor.execute(statement)
sqlalchemy.exc.OperationalError: (sqlite3.OperationalError) attempt to write a readonly database
[SQL: INSERT INTO x]
(Background on this error at: https://sqlalche.me/e/21/e3q8)
"""


class Silent(BaseException):
    """Says nothing."""


def test_known_causes_are_told_in_words(tmp_path):
    log = tmp_path / "aggregate.log"
    log.write_text(LOG)
    text = explain_failure(Silent(), log)
    assert text.startswith("it may not be written to (OperationalError: ")
    log.write_text(LOG.replace("attempt to write a readonly database", "database is locked"))
    assert explain_failure(Silent(), log).startswith("another process holds it (")
    outer = RuntimeError("x")
    outer.__cause__ = OSError(28, "No space left on device")
    assert explain_failure(outer, log).startswith("the disk is full (OSError: [Errno 28]")


def test_unknown_causes_keep_their_words(tmp_path):
    log = tmp_path / "aggregate.log"
    assert explain_failure(Silent(), log) == "Silent without a message"
    log.write_text("x\nValueError: odd graph\n")
    assert explain_failure(Silent(), log) == "ValueError: odd graph"
