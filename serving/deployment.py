"""Where a built service finds Redis and writes its prediction log.

A Bento records the path of the feature repo it was built in. For machines without that repo it also records the project and the
online store from ``feature_store.yaml``, with environment variables unexpanded so that it holds no secret.
``ASOF_REPO``, ``ASOF_REDIS`` and ``ASOF_PREDICTIONS`` override all of this.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import yaml

from asof.errors import SettingsError
from asof.settings import OnlineSettings, RepoSettings

_SECRETS = re.compile(r"(?:password=|://[^:@/,]*:)([^,@]+)", re.IGNORECASE)

FILE = "deployment.json"
STORE = "feature_store.yaml"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The addresses and folders that a service uses.

    Attributes:
        online: How to reach Redis.
        predictions: Folder of all prediction logs.
    """

    online: OnlineSettings
    predictions: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The deployment in ``folder``, as written by :func:`write`, with overrides from the environment.

        Raises:
            SettingsError: A file is damaged, or ``ASOF_REPO`` names no feature repo.
        """
        built = Path(json.loads((folder / FILE).read_text())["repo"])
        root = Path(os.environ.get("ASOF_REPO") or (built if (built / STORE).is_file() else folder))
        settings = RepoSettings.load(root)
        override = os.environ.get("ASOF_PREDICTIONS")
        return cls(settings.online, Path(override) if override else settings.predictions)


def write(folder: Path, settings: RepoSettings) -> None:
    """Write the deployment of ``settings`` into ``folder``.

    Raises:
        SettingsError: The connection string holds a password in plain text.
    """
    declared = yaml.safe_load((settings.path / STORE).read_text())
    online = declared.get("online_store") or {}
    text = str(online.get("connection_string", ""))
    if any(not secret.startswith("$") for secret in _SECRETS.findall(text)):
        raise SettingsError(
            f"{settings.path / STORE} holds a password in plain text, which would become part of the built service; "
            "write ${NAME} there and set that environment variable"
        )
    (folder / FILE).write_text(json.dumps({"repo": str(settings.path)}, indent=1) + "\n")
    (folder / STORE).write_text(yaml.safe_dump({"project": declared["project"], "online_store": online}))
