import tomllib

from hypercorn.config import Config

from service.platform.settings import ROOT

TOML = tomllib.loads((ROOT / "hypercorn.toml").read_text())


def test_hypercorn_knows_every_key() -> None:
    assert not [key for key in TOML if not hasattr(Config, key)]


def test_hypercorn_takes_every_value() -> None:
    config = Config.from_toml(ROOT / "hypercorn.toml")
    config.log  # noqa: B018  # applies logconfig_dict
    assert config.worker_class == "uvloop"
    assert config.include_server_header is False
    assert config.include_date_header is False
    assert config.max_requests is None


def test_no_time_out_of_hypercorn_is_shorter_than_a_request_may_take() -> None:
    longest = 25  # what service/platform/settings.py allows for REQUEST_TIMEOUT and BODY_TIMEOUT
    assert TOML["graceful_timeout"] > longest
    assert TOML["keep_alive_timeout"] > 60
    assert "read_timeout" not in TOML  # it would also end what is silent for a good reason, see hypercorn.toml
