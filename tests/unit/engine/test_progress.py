"""Lines of the progress display."""

import io

import pytest

from skymill.engine.progress import ProgressView, format_duration, time_left
from skymill.engine.report import QuantumFailure, RunReport, TaskCounts, write_json


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-:--"), (5, "0:05"), (65.4, "1:05"), (3661, "1:01:01")]
)
def test_duration(seconds, text):
    assert format_duration(seconds) == text


def test_time_left():
    assert time_left(TaskCounts(label="a", total=10), 2) is None
    assert time_left(TaskCounts(label="a", total=10, done=4, seconds=8.0), 2) == 6.0
    # One quantum keeps only one worker busy.
    assert time_left(TaskCounts(label="a", total=5, done=4, seconds=8.0), 2) == 2.0
    assert time_left(TaskCounts(label="a", total=4, done=4, seconds=8.0), 2) == 0.0


def test_plain_lines_off_a_terminal():
    stream = io.StringIO()
    view = ProgressView("step1", 2, stream=stream, period_s=0.0)
    view.update([TaskCounts(label="isr", total=4, done=2, failed=1, seconds=2.0)])
    view.close()
    line = stream.getvalue()
    assert line.startswith("step1 isr: 3/4 (")
    assert "left 0:01" in line
    assert "1 failed" in line


def make_report():
    failure = QuantumFailure(
        label="isr",
        data_id="detector 3",
        exception="ValueError",
        message="no flat",
        log="/x.log",
        quantum_id="1",
    )
    counts = TaskCounts(label="isr", total=4, done=2, no_work=1, failed=1)
    return RunReport(output_run="a/1", graph="g", tasks=[counts], failures=[failure])


def test_report_text_and_round_trip(tmp_path):
    report = make_report()
    assert not report.ok
    assert "isr: 2 done, 1 no work, 1 failed of 4" in report.text()
    assert "isr (detector 3): ValueError: no flat\n    log: /x.log" in report.text()
    assert RunReport.from_dict(report.to_dict()) == report


def test_json_is_written_whole(tmp_path):
    path = tmp_path / "a" / "x.json"
    write_json(path, {"b": 1})
    with pytest.raises(TypeError):
        write_json(path, {(1, 2): object()})
    assert path.read_text().strip().startswith("{")
    assert '"b": 1' in path.read_text()
