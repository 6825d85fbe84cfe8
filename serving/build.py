"""``asof build``: makes a Bento from a bundle, for ``bentoml serve`` and ``bentoml containerize``.

A Bento holds the bundle, the package ``asof`` without training and monitoring, an entry module, and where it was built
(:mod:`asof.serving.deployment`). BentoML's model store is not used: the model is plain files. The Bento is stored in the BentoML home
of the feature repo, ``<repo>/data/bentoml``, or in ``$BENTOML_HOME``.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from asof import version as place
from asof.bundle import Bundle
from asof.errors import BundleError, NotFoundError, UsageError
from asof.rendering import Rendered
from asof.serving import deployment
from asof.settings import RepoSettings

ENTRY = "asof_bento"
"""Module of a Bento that declares its service."""

NOT_SERVED = ("training", "monitoring")
"""Packages in ``asof`` that a Bento does not carry."""

_LONGEST_NAME = 63

_ENTRY_SOURCE = '''"""Entry module of this Bento."""

from pathlib import Path
from typing import Any

from asof.serving.service import make

service = make(Path(__file__).parent)
'''

REQUIREMENTS = (
    "bentoml", "hiredis", "lightgbm", "numpy", "prometheus_client", "psutil", "pyarrow", "pyyaml", "redis",
)  # fmt: skip
"""Distributions that a worker needs, besides what on-demand functions import."""


@dataclass(frozen=True, slots=True, repr=False)
class BuiltService(Rendered):
    """A Bento on disk.

    Attributes:
        tag: Its BentoML tag, ``name:version``.
        path: Its folder.
        home: The BentoML home that it is stored in.
        model: Name of the model.
    """

    tag: str
    path: Path
    home: Path
    model: str

    def parts(self) -> Iterator[str]:
        """Where it is, and what to do next."""
        yield f"built {self.tag} in {self.path}"
        yield f"serve it with `asof serve {self.model}`"

    def to_dict(self) -> dict[str, Any]:
        """The Bento as JSON-ready data."""
        return {"tag": self.tag, "path": str(self.path), "bentoml_home": str(self.home)}


def use_home(settings: RepoSettings) -> Path:
    """Make BentoML use the home of ``settings`` and send no usage data. Call it before BentoML is imported."""
    home = settings.bentoml
    home.mkdir(parents=True, exist_ok=True)
    os.environ["BENTOML_HOME"] = str(home)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    return home


def build(settings: RepoSettings, model: str, version: str | None = None) -> BuiltService:
    """Build a Bento of ``model`` in ``version``, by default the newest; replaces a Bento of the same version.

    Raises:
        NotFoundError: There is no such model or version.
        BundleError: The bundle is damaged.
        SettingsError: The online store's password is written in plain text.
    """
    settings.hide_data_from_feast()
    home = use_home(settings)
    bundle = Bundle.find(settings.models, model, version)
    with tempfile.TemporaryDirectory(prefix="asof-build-") as folder:
        _fill(Path(folder), bundle, settings)
        tag, path = _build(Path(folder), bundle)
    return BuiltService(tag, path, home, model)


def find(settings: RepoSettings, model: str, version: str | None = None) -> Path:
    """The folder of a built Bento; without ``version``, of the one built last.

    Raises:
        UsageError: The model has not been built.
        NotFoundError: That version has not been built.
    """
    store = settings.bentoml / "bentos" / _name(model)
    built = {p.name: p for p in store.iterdir() if (p / "bento.yaml").is_file()} if store.is_dir() else {}
    if not built:
        raise UsageError(f"no service of model {model!r} was built; run `asof build {model}` first")
    if version is None:
        return max(built.values(), key=lambda p: (p / "bento.yaml").stat().st_mtime)
    if _version(version) not in built:
        raise NotFoundError(f"built version of model {model!r}", version, built)
    return built[_version(version)]


def _fill(folder: Path, bundle: Bundle, settings: RepoSettings) -> None:
    source = Path(place.__file__).parent
    left_out = [str(source / name) for name in NOT_SERVED]
    shutil.copytree(
        source,
        folder / source.name,
        ignore=lambda at, names: [n for n in names if n == "__pycache__" or f"{at}/{n}" in left_out],
    )
    shutil.copytree(bundle.path, folder / "bundle")
    deployment.write(folder, settings)
    (folder / f"{ENTRY}.py").write_text(_ENTRY_SOURCE)


def _build(folder: Path, bundle: Bundle) -> tuple[str, Path]:
    import bentoml
    from bentoml.exceptions import BentoMLException, NotFound

    sys.modules.pop(ENTRY, None)  # an earlier build in this process imported its own
    tag = f"{_name(bundle.model)}:{_version(bundle.version)}"
    with suppress(NotFound):
        bentoml.bentos.delete(tag)
    try:
        bento = bentoml.bentos.build(
            f"{ENTRY}:service",
            name=_name(bundle.model),
            version=_version(bundle.version),
            build_ctx=str(folder),
            labels={"model": bundle.model, "model_version": bundle.version, "contract": bundle.contract.fingerprint},
            description=_readme(bundle),
            python={"packages": _pinned(bundle), "lock_packages": False},
        )
    except BentoMLException as error:
        raise BundleError(f"BentoML could not build {tag}: {' '.join(str(error).split())}") from error
    return str(bento.tag), Path(bento.path)


def _pinned(bundle: Bundle) -> list[str]:
    frames = any(view.mode == "pandas" for view in bundle.contract.on_demand)
    names = (*REQUIREMENTS, *(["pandas"] if frames else []))
    return [f"{name}=={importlib.metadata.version(name)}" for name in names]


def _readme(bundle: Bundle) -> str:
    return (
        f"# {bundle.model} {bundle.version}\n\nScores rows of feature service `{bundle.contract.service}` "
        f"(contract {bundle.contract.fingerprint}): `POST /predict`, types at `/docs.json`.\n\n"
        "`ASOF_REDIS`, `ASOF_PREDICTIONS` and `ASOF_REPO` say where Redis and the prediction log are; "
        "`ASOF_SERVE_*` sets limits.\n"
    )


def _name(model: str) -> str:
    """The Bento's name. BentoML takes ``a-z0-9._-`` alone; a name that has more is told from similar ones by a digest."""
    plain = model.lower().replace("_", "-")
    if re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", plain) and len(plain) <= _LONGEST_NAME:
        return plain
    letters = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    return f"{re.sub('[^a-z0-9]+', '-', letters).strip('-')[:40] or 'model'}-{sha256(model.encode()).hexdigest()[:8]}"


def _version(version: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in version).lower()
