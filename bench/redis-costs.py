#!/usr/bin/env python3
"""Measures what publishes, channels and streams cost Redis, and prints the figures of docs/scaling.md.

It starts a redis-server of its own, and needs no library. The processor time is that of the Redis process, from
`INFO cpu`. Usage: bench/redis-costs.py [channels]
"""
import re
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time

PAYLOAD = b"x" * 128
# How many publishes there are, and how many of them are in one write. A busy Redis reads many at a time.
LOADS = [(400_000, 100), (40_000, 1)]
# The topics of one SUBSCRIBE, as the gateway sends them. One SSUBSCRIBE takes only topics of the same slot.
TOPICS_PER_COMMAND = {b"SUBSCRIBE": 512, b"SSUBSCRIBE": 1}
# The commands that are sent before their answers are read.
COMMANDS_PER_WRITE = 64
# The entries that a stream keeps, the entries of one answer, and the entries before the memory of a stream is measured.
MAX_LEN = b"100000"
ENTRIES_PER_READ = b"128"
FILLED = 50_000


def command(*parts):
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Redis:
    """A redis-server on a free port, without persistence and without a limit for slow subscribers."""

    def __init__(self, folder, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--client-output-buffer-limit", "pubsub 0 0 0", *arguments], cwd=folder, stdout=subprocess.DEVNULL)
        while True:
            try:
                self.control = self.connect()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)

    def close(self):
        self.process.terminate()
        self.process.wait()

    def ask(self, *parts):
        """Sends a command whose answer is one line."""
        self.control.sendall(command(*parts))
        answer = b""
        while not answer.endswith(b"\r\n"):
            answer += self.control.recv(65536)
        return answer

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port))

    def info(self, section, key):
        self.control.sendall(command(b"INFO", section))
        text = b""
        while (found := re.search(rb"^%s:([0-9.]+)\r\n(?s:.*)\r\n\r\n\Z" % key, text + b"\r\n", re.M)) is None:
            text += self.control.recv(65536)
        return float(found[1])

    def cpu(self):
        return self.info(b"cpu", b"used_cpu_user") + self.info(b"cpu", b"used_cpu_sys")


class Subscribers:
    """Connections that subscribe, and a thread that reads what arrives."""

    def __init__(self, redis, topics, subscribe=b"SUBSCRIBE"):
        self.sockets = []
        size = TOPICS_PER_COMMAND[subscribe]
        confirmation = b"\r\n%s\r\n" % subscribe.lower()
        for own in topics:
            self.sockets.append(connection := redis.connect())
            for i in range(0, len(own), size * COMMANDS_PER_WRITE):
                part = own[i:i + size * COMMANDS_PER_WRITE]
                commands = (command(subscribe, *part[k:k + size]) for k in range(0, len(part), size))
                connection.sendall(b"".join(commands))
                confirmed = 0
                while confirmed < len(part):
                    confirmed += connection.recv(1 << 20).count(confirmation)
        self.received = 0
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        poll = select.poll()
        by_number = {connection.fileno(): connection for connection in self.sockets}
        for number in by_number:
            poll.register(number, select.POLLIN)
        while by_number:
            for number, _ in poll.poll():
                try:
                    received = len(by_number[number].recv(1 << 20))
                except OSError:
                    received = 0
                self.received += received
                if not received:
                    poll.unregister(number)
                    del by_number[number]

    def close(self):
        for connection in self.sockets:
            connection.shutdown(socket.SHUT_RDWR)
        self.thread.join()


class Readers:
    """Connections that read a stream from its end, and a thread for each."""

    def __init__(self, redis, count):
        self.sockets = [redis.connect() for _ in range(count)]
        self.threads = [threading.Thread(target=self.read, args=[socket], daemon=True) for socket in self.sockets]
        for thread in self.threads:
            thread.start()

    def read(self, connection):
        last = b"$"
        try:
            while True:
                connection.sendall(command(b"XREAD", b"COUNT", ENTRIES_PER_READ, b"BLOCK", b"0", b"STREAMS", b"s", last))
                answer = b""
                # An answer ends with the payload of its last entry.
                while not answer.endswith(PAYLOAD + b"\r\n"):
                    if not (part := connection.recv(1 << 20)):
                        return
                    answer += part
                last = re.findall(rb"\r\n(\d+-\d+)\r\n", answer)[-1]
        except OSError:
            pass

    def close(self):
        for connection in self.sockets:
            connection.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()


def publish(redis, name, topics, make=lambda topic: command(b"PUBLISH", topic, PAYLOAD), lines=1):
    """Publishes on the topics in turn, and prints what each publish cost. An answer has this number of lines."""
    connection = redis.connect()
    for publishes, pipeline in LOADS:
        cpu, sent = redis.cpu(), redis.info(b"stats", b"total_net_output_bytes")
        for i in range(0, publishes, pipeline):
            batch = (topics[(i + k) * 7919 % len(topics)] for k in range(pipeline))
            connection.sendall(b"".join(make(topic) for topic in batch))
            answered = 0
            while answered < pipeline * lines:
                answered += connection.recv(65536).count(b"\r\n")
        cpu, sent = redis.cpu() - cpu, redis.info(b"stats", b"total_net_output_bytes") - sent
        print(f"{name}, {pipeline} in a write: {cpu / publishes * 1e6:.2f} us of Redis' processor time, "
              f"{sent / publishes:.0f} bytes sent")


def channels(redis, count, gateways, subscribe=b"SUBSCRIBE"):
    """Subscribes each gateway to its part of the channels, and prints what they cost."""
    topics = [b"broadcast:user:%d" % user for user in range(1, count + 1)]
    parts = [topics[i::gateways] for i in range(gateways)]
    memory, cpu = redis.info(b"memory", b"used_memory"), redis.cpu()
    subscribers = Subscribers(redis, parts, subscribe)
    memory, cpu = redis.info(b"memory", b"used_memory") - memory, redis.cpu() - cpu
    print(f"{count} channels over {gateways} connections ({subscribe.decode()}): {memory / count:.0f} bytes of memory for each, "
          f"{cpu / count * 1e6:.2f} us for each subscription")
    return topics, subscribers


def with_channels(redis, count):
    for gateways in [1, 20]:
        subscribers = Subscribers(redis, [[b"broadcast"]] * gateways)
        publish(redis, f"PUBLISH on one channel with {gateways} subscribers", [b"broadcast"])
        subscribers.close()
    topics, subscribers = channels(redis, count, 20)
    publish(redis, f"PUBLISH on one of {count} channels", topics)
    memory = redis.info(b"memory", b"used_memory")
    again = Subscribers(redis, [topics[::20]])
    more = redis.info(b"memory", b"used_memory") - memory
    print(f"a second subscriber of a channel: {more / len(topics[::20]):.0f} bytes")
    again.close()
    subscribers.close()


def with_slots(redis, count):
    """Measures one master of a Cluster, which has all slots."""
    redis.ask(b"CLUSTER", b"ADDSLOTSRANGE", b"0", b"16383")
    while b"cluster_state:ok" not in redis.ask(b"CLUSTER", b"INFO"):
        time.sleep(0.05)
    topics, subscribers = channels(redis, count, 20, b"SSUBSCRIBE")
    publish(redis, f"SPUBLISH on one of {count} channels", topics,
            lambda topic: command(b"SPUBLISH", topic, PAYLOAD))
    subscribers.close()


def with_streams(redis):
    def add(number):
        own = b"d4f2c1a0-0000-4000-8000-000000000000-%d" % number
        return command(b"XADD", b"s", b"MAXLEN", b"~", MAX_LEN, b"*", b"id", own, b"payload", PAYLOAD)

    memory = redis.info(b"memory", b"used_memory")
    for number in range(FILLED):
        redis.control.sendall(add(number))
        while not redis.control.recv(4096).endswith(b"\r\n"):
            pass
    memory = redis.info(b"memory", b"used_memory") - memory
    print(f"an entry of a stream: {memory / FILLED:.0f} bytes of memory")
    for gateways in [0, 1, 20]:
        readers = Readers(redis, gateways)
        publish(redis, f"XADD with {gateways} readers", range(10_000), add, lines=2)
        readers.close()


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(subprocess.check_output(["redis-server", "--version"], text=True).split(" sha=")[0])
    with tempfile.TemporaryDirectory() as folder:
        for measure, arguments in [
                (lambda redis: with_channels(redis, count), []),
                (lambda redis: with_slots(redis, count), ["--cluster-enabled", "yes"]),
                (with_streams, [])]:
            redis = Redis(folder, *arguments)
            try:
                measure(redis)
            finally:
                redis.close()


if __name__ == "__main__":
    main()
