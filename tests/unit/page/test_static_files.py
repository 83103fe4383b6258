"""The files of the page: all are served, with types that browsers accept."""

from pathlib import Path

import wasmdrop.page
from wasmdrop.page.static_files import read_static_files


def test_static_files_are_all_served_by_their_types() -> None:
    """Browsers run scripts and use styles of the right type alone (``nosniff``)."""
    files = read_static_files()
    directory = Path(wasmdrop.page.__file__).parent / "static"
    assert set(files) == {path.name for path in directory.iterdir()}
    assert files["index.html"].content_type == "text/html; charset=utf-8"
    for name, file in files.items():
        assert file.body == (directory / name).read_bytes()
        if name.endswith(".js"):
            assert file.content_type == "text/javascript; charset=utf-8"
        if name.endswith(".css"):
            assert file.content_type == "text/css; charset=utf-8"
