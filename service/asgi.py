"""The application that Hypercorn and the `quart` command load, with the settings of this process."""

import os
import sys

from service import create_app
from service.platform.settings import SettingsError, load_settings

try:
    app = create_app(load_settings())
except SettingsError as error:
    sys.exit(f"{error}")

if app.debug:
    # `quart run` reloads, and shows errors in the browser, only where this is set when it has loaded the application.
    os.environ.setdefault("QUART_DEBUG", "1")
