"""The command `ewsjf screenshots`: pictures of real runs for the docs, in headless Chromium.

Needs `apt-get install chromium chromium-driver` and `pip install --group screenshots`.
"""

import contextlib
import io
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from agents.cli._command import Parser, made_folder, run_command
from ewsjf_env.config import ConfigError

DESCRIPTION = """\
Take docs/tensorboard.png and docs/optuna_dashboard.png of real runs.  Needs
`apt-get install chromium chromium-driver` and the group `screenshots`."""
FLAGS = (
    "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
    "disable-component-update disable-sync"
)
WIDTH_PX = 1500


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    return run_command(lambda: _take(words), "the pictures so far are kept")


def make_parser() -> Parser:
    """The command line."""
    parser = Parser("ewsjf screenshots", None, DESCRIPTION)
    parser.add_argument("runs", type=Path, help="folder of runs of several agents: page HParams")
    parser.add_argument("run", type=Path, help="one of them, with a study.journal: all the rest")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the pictures")
    return parser


def _take(words: list[str]) -> int:
    paths = make_parser().arguments(words)
    if not paths.runs.is_dir() or not (paths.run / "study.journal").exists():
        raise ConfigError(f"{paths.run}: not a run with a study.journal")
    made_folder("--out", paths.out)
    board = ["tensorboard", "--logdir_spec", "/".join(paths.run.absolute().parts[-3:]) + ":."]
    curves = shot(paths.run, board, "?darkMode=false#custom_scalars&_smoothingWeight=0", 1500, 1600)
    board = ["tensorboard", "--logdir", "."]
    table = shot(paths.runs, board, "?darkMode=false#hparams", 2100, 600)
    table = table.resize((WIDTH_PX, table.height * WIDTH_PX // table.width))
    both = Image.new("RGB", (WIDTH_PX, curves.height + table.height))
    both.paste(curves, (0, 0))
    both.paste(table, (0, curves.height))
    study = ["optuna-dashboard", "study.journal"]
    trials = shot(paths.run, study, "dashboard/studies/0", WIDTH_PX, 1170)
    for name, picture in (("tensorboard", both), ("optuna_dashboard", trials)):
        path = paths.out / f"{name}.png"
        picture.quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}  {picture.width} x {picture.height}  {path.stat().st_size // 1000} kB")
    return 0


def shot(folder: Path, command: list[str], page: str, width: int, height: int) -> Image.Image:
    """Serve `folder` by a tool of this environment; its page once it has stood still for 9 s."""
    from selenium import webdriver

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    tool = [str(Path(sys.executable).with_name(command[0])), *command[1:], "--port", str(port)]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(tool, cwd=folder, stderr=subprocess.DEVNULL))
        stack.callback(server.terminate)
        profile = stack.enter_context(tempfile.TemporaryDirectory())
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*FLAGS.split(), f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        driver = webdriver.ChromeService("/usr/bin/chromedriver")
        browser = stack.enter_context(webdriver.Chrome(options, driver))
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        while server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(1)
        browser.get(f"http://127.0.0.1:{port}/{page}")
        seen = [b""]
        while len(seen) < 5 or len(set(seen[-4:])) > 1:
            time.sleep(3)
            seen.append(browser.get_screenshot_as_png())
    return Image.open(io.BytesIO(seen[-1])).convert("RGB")


if __name__ == "__main__":
    sys.exit(main())
