"""Settings of gunicorn for the shop; what differs between installations comes from the environment."""

import os
import pathlib

root = pathlib.Path(os.environ["SHOP_ROOT"])

bind = os.environ.get("SHOP_BIND", "127.0.0.1:8000")
workers = int(os.environ.get("SHOP_WORKERS", "2"))
worker_class = os.environ.get("SHOP_WORKER_CLASS", "gthread")
threads = int(os.environ.get("SHOP_THREADS", "4")) if worker_class == "gthread" else 1
keepalive = 15
graceful_timeout = 20
pidfile = str(root / "run" / "gunicorn.pid")
errorlog = str(root / "run" / "gunicorn.log")
# Two masters run side by side during a switch and would fight over one control socket.
control_socket_disable = True


def post_worker_init(worker):
    """The application is loaded: tells the switch script that this worker serves."""
    (root / "run" / f"ready.{worker.ppid}.{worker.pid}").touch()


def worker_exit(server, worker):
    """Undoes post_worker_init."""
    (root / "run" / f"ready.{worker.ppid}.{worker.pid}").unlink(missing_ok=True)
