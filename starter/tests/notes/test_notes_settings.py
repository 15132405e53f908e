import pytest

from service.notes.settings import load_notes_settings
from service.platform.settings import SettingsError


@pytest.mark.parametrize("value", ["0", "4001", "many", ""])
def test_a_malformed_setting_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTE_LENGTH", value)
    with pytest.raises(SettingsError, match="NOTE_LENGTH"):
        load_notes_settings()
