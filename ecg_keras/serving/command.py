"""Command ``ecg-serve``: a local web page for uploading recordings."""

from data_prep.commands import run_command
from data_prep.errors import OptionError


def main(
    *,
    models: tuple[str, ...],
    host: str = "127.0.0.1",
    port: int = 8000,
    files: int = 20,
    megabytes: int = 50,
) -> None:
    """Serve a local web page that predicts from uploaded recordings.

    Uploads are processed one at a time, in order of arrival.  Files are kept in a temporary folder
    until they are processed; the results of the latest 50 are kept until the server stops.
    The page loads nothing from other sites and runs no scripts.

    Args:
        models: best.keras files, names of published models or quoted patterns; each is one choice
            on the page, and a pattern that matches several files is an ensemble.
        host: address to listen on. By default only this machine can open the page; with 0.0.0.0,
            every machine that can reach this one can, using the token that is then printed.
        port: port to listen on; 0 for any free port.
        files: maximum number of files per upload.
        megabytes: maximum total size of an upload, in MB.
    """
    if not models:
        raise OptionError("no model is named; give at least one .keras file after --models.")
    for option, value in {"--files": files, "--megabytes": megabytes}.items():
        if value < 1:
            raise OptionError(f"{option} must be above 0, not {value}.")
    if not 0 <= port < 65536:
        raise OptionError(f"--port takes 0 to 65535, not {port}.")
    try:
        from ecg_keras.serving.server import serve
    except ModuleNotFoundError as error:
        raise OptionError(
            f"{error.name} is not installed; run pip install 'ecg-keras[serve]'."
        ) from None
    from ecg_keras.prediction.ensemble import open_models
    from ecg_keras.serving.uploads import Limits

    serve(
        {pattern: open_models([pattern]) for pattern in models},
        Limits(files=files, megabytes=megabytes),
        host=host,
        port=port,
    )


def command() -> None:
    """Run ``ecg-serve``."""
    run_command(main)


if __name__ == "__main__":
    command()
