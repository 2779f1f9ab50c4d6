"""A fresh clone: the same bytes whatever git is told, and a way back from experiments that works
from the lock that is shipped, on any processor."""


def test_line_ends_stay_as_they_are(project, tmp_path):
    """Or DVC would take each file for changed."""
    path = tmp_path / "clone"
    project.run("git", "clone", "--quiet", "-c", "core.autocrlf=true", project.path, path)
    for name in project.run("git", "ls-files").stdout.splitlines():
        assert (path / name).read_bytes() == (project.path / name).read_bytes(), name
    (path / "windows.csv").write_bytes(b"clip\r\n1\r\n")
    project.run("git", "-C", path, "add", "windows.csv")
    shown = project.run("git", "-C", path, "cat-file", "-s", ":windows.csv").stdout
    assert int(shown) == 9
