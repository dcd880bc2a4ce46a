"""What the examples share: starts Millrace and an MQTT broker on free ports, in a folder that goes away, and reads topics.

The program is $MILLRACE_BIN, else `millrace` on the PATH, else what `cargo build` left in `target`.
"""

import ctypes
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import confluent_kafka

TOP = pathlib.Path(__file__).resolve().parent.parent
# Far longer than anything healthy takes on a slow machine.
PATIENCE = 150.0


def program():
    """The path of Millrace's own program."""
    built = [TOP / "target" / profile / "millrace" for profile in ("release", "debug")]
    for candidate in (os.environ.get("MILLRACE_BIN"), shutil.which("millrace"), *built):
        if candidate and pathlib.Path(candidate).is_file():
            return str(candidate)
    raise SystemExit("there is no millrace; type: cargo build --release -p millrace --features lake")


def free_port():
    # Below the range the kernel takes for outgoing connections, so that it stays free until it is bound.
    for _ in range(1_000):
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise SystemExit("no free port between 15000 and 32000 on 127.0.0.1")


def wait(what, ready, patience=PATIENCE):
    """Waits until `ready()` gives something else than None or False, and gives that."""
    end = time.monotonic() + patience
    while True:
        found = ready()
        if found is not None and found is not False:
            return found
        if time.monotonic() > end:
            # The words by which tests/run knows that a test was late, not wrong.
            raise SystemExit(f"{what}: did not happen within {patience:.0f}s")
        time.sleep(0.05)


def environment():
    """That of every program here: an example also runs on a disk that is nearly full, where a plant keeps a tenth of it free."""
    return {"MILLRACE_LOG_KEEP_FREE": "256MiB", **os.environ}


def _die_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Stage:
    """Everything that was started for an example; it ends with the `with` block."""

    def __init__(self, folder=None):
        self._own = None if folder else tempfile.mkdtemp(prefix="millrace-example-")
        self.folder = pathlib.Path(folder or self._own).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._processes = []
        # Asked to end, it ends what it started.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        for name, process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        if kind is not None:
            for name, _ in self._processes:
                lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
                print(f"---- the last lines of {name} ----", *lines[-30:], sep="\n", file=sys.stderr)
        if self._own:
            shutil.rmtree(self._own, ignore_errors=True)

    def start(self, name, *command):
        """Starts a program; what it prints is in FOLDER/NAME.log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            words = [str(word) for word in command]
            process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder, env=environment(), preexec_fn=_die_with_us)
        self._processes.append((name, process))
        return process

    def mqtt(self):
        """An MQTT broker: Mosquitto where it is installed, else the one inside `millrace simulate`. Its address."""
        port = free_port()
        mosquitto = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
        if mosquitto:
            file = self.folder / "mosquitto.conf"
            # Another user's process would outlive this one, where this one is killed.
            user = "user root\n" if os.geteuid() == 0 else ""
            file.write_text(f"{user}listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\nlog_type error\n")
            broker = self.start("mosquitto", mosquitto, "-c", file)
        else:
            broker = self.start("broker", program(), "simulate", "mqtt", "--listen", f"127.0.0.1:{port}", "--cells", 0, "--packers", 0)
        wait("the MQTT broker listens", lambda: answers(broker, port))
        return f"127.0.0.1:{port}"

    def beside(self, millrace):
        """The environment of another command of the program, which takes the running service's Kafka instead of one of its own."""
        return {**environment(), "MILLRACE_KAFKA_BROKERS": millrace.kafka}

    def millrace(self, factory, moved=()):
        """Millrace on a copy of this file, in which every address is a free one; `moved` are other texts to exchange."""
        http, kafka = free_port(), free_port()
        text = pathlib.Path(factory).read_text()
        for here, there in {"127.0.0.1:8080": f"127.0.0.1:{http}", "127.0.0.1:9092": f"127.0.0.1:{kafka}", **dict(moved)}.items():
            text = text.replace(here, there)
        file = self.folder / "factory.yaml"
        file.write_text(text)
        return Millrace(self, file, http, f"127.0.0.1:{kafka}")


def answers(process, port):
    if process.poll() is not None:
        raise SystemExit(f"{process.args[0]} ended with {process.returncode}")
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Millrace:
    """A running Millrace with its embedded broker."""

    def __init__(self, stage, file, http, kafka):
        self.stage, self.file, self.http, self.kafka = stage, file, http, kafka
        self.launch()
        wait("Millrace answers", self._is_ready)

    def launch(self):
        """Starts it, also once more after a kill, and does not wait."""
        self.process = self.stage.start("millrace", program(), "run", "-c", self.file)

    def kill9(self):
        """As a power switch would."""
        self.process.kill()
        self.process.wait()

    def _is_ready(self):
        if not answers(self.process, self.http):
            return False
        status = self.status()
        return all(one["status"] == "Running" for kind in ("sources", "sinks") for one in status[kind].values()) or None

    def status(self):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/status", timeout=60) as answer:
            return json.load(answer)

    def ledger(self, source):
        """What a source has received, and what became of it."""
        return self.status()["sources"][source]["ledger"]

    def drained(self, source, received):
        """Waits until so many records have come, and all of them are in Kafka."""

        def ready():
            ledger = self.ledger(source)
            return ledger if ledger["received"] >= received and ledger["waiting"] == 0 else None

        return wait(f"{source} has received {received} records and Kafka has them", ready)

    def resident_mib(self):
        """The memory it has now, in MiB."""
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS:"))


def records(kafka, topic):
    """Every record that is committed in a topic now, partition by partition, in their order."""
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": kafka, "group.id": "example", "enable.auto.commit": False, "isolation.level": "read_committed", "enable.partition.eof": True}
    )
    try:
        found = consumer.list_topics(topic, timeout=60).topics[topic]
        if found.error:
            return
        consumer.assign([confluent_kafka.TopicPartition(topic, number, confluent_kafka.OFFSET_BEGINNING) for number in found.partitions])
        open_partitions = set(found.partitions)
        while open_partitions:
            for record in consumer.consume(5_000, timeout=1.0):
                if record.error() is None:
                    yield record
                elif record.error().code() == confluent_kafka.KafkaError._PARTITION_EOF:
                    open_partitions.discard(record.partition())
                else:
                    raise confluent_kafka.KafkaException(record.error())
    finally:
        consumer.close()


def values(kafka, topic):
    """The same, as JSON."""
    return [json.loads(record.value()) for record in records(kafka, topic) if record.value() is not None]


def run_notebook(file, folder, **environment):
    """Runs a notebook from top to bottom in a kernel of its own, and keeps it with its outputs in the folder. What fails in it fails here."""
    import nbclient
    import nbformat

    # Nothing is written where the user's own notebooks are at home.
    environment |= {"IPYTHONDIR": folder / "ipython", "JUPYTER_DATA_DIR": folder / "jupyter", "JUPYTER_RUNTIME_DIR": folder / "jupyter"}
    os.environ.update({name: str(value) for name, value in environment.items()})
    notebook = nbformat.read(file, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=2 * PATIENCE, kernel_name="python3", resources={"metadata": {"path": str(pathlib.Path(file).parent)}})
    try:
        client.execute()
    finally:
        nbformat.write(notebook, folder / pathlib.Path(file).name)


def with_path(*folders):
    """PYTHONPATH with these folders in front."""
    return os.pathsep.join([*map(str, folders), str(TOP / "examples"), *filter(None, [os.environ.get("PYTHONPATH")])])
