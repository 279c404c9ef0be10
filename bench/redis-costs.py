#!/usr/bin/env python3
"""Measures what PUBLISH and channels cost Redis, and prints the figures of docs/scaling.md.

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
# The topics of one SUBSCRIBE, as the gateway sends them.
TOPICS_PER_COMMAND = 512


def command(*parts):
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


class Redis:
    """A redis-server on a free port, without persistence and without a limit for slow subscribers."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--client-output-buffer-limit", "pubsub 0 0 0"], cwd=folder, stdout=subprocess.DEVNULL)
        while True:
            try:
                self.control = self.connect()
                break
            except ConnectionRefusedError:
                time.sleep(0.02)

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

    def __init__(self, redis, topics):
        self.sockets = []
        for own in topics:
            self.sockets.append(connection := redis.connect())
            for i in range(0, len(own), TOPICS_PER_COMMAND):
                connection.sendall(command(b"SUBSCRIBE", *own[i:i + TOPICS_PER_COMMAND]))
                confirmed = 0
                while confirmed < len(own[i:i + TOPICS_PER_COMMAND]):
                    confirmed += connection.recv(1 << 20).count(b"$9\r\nsubscribe\r\n")
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


def publish(redis, name, topics):
    """Publishes on the topics in turn, and prints what each publish cost."""
    connection = redis.connect()
    for publishes, pipeline in LOADS:
        cpu, sent = redis.cpu(), redis.info(b"stats", b"total_net_output_bytes")
        for i in range(0, publishes, pipeline):
            batch = (topics[(i + k) * 7919 % len(topics)] for k in range(pipeline))
            connection.sendall(b"".join(command(b"PUBLISH", topic, PAYLOAD) for topic in batch))
            answered = 0
            while answered < pipeline:
                answered += connection.recv(65536).count(b"\r\n")
        cpu, sent = redis.cpu() - cpu, redis.info(b"stats", b"total_net_output_bytes") - sent
        print(f"{name}, {pipeline} in a write: {cpu / publishes * 1e6:.2f} us of Redis' processor time, "
              f"{sent / publishes:.0f} bytes sent")


def channels(redis, count, gateways):
    """Subscribes each gateway to its part of the channels, and prints what they cost."""
    topics = [b"broadcast:user:%d" % user for user in range(1, count + 1)]
    parts = [topics[i::gateways] for i in range(gateways)]
    memory, cpu = redis.info(b"memory", b"used_memory"), redis.cpu()
    subscribers = Subscribers(redis, parts)
    memory, cpu = redis.info(b"memory", b"used_memory") - memory, redis.cpu() - cpu
    print(f"{count} channels over {gateways} connections: {memory / count:.0f} bytes of memory for each, "
          f"{cpu / count * 1e6:.2f} us for each subscription")
    return topics, subscribers


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    print(subprocess.check_output(["redis-server", "--version"], text=True).split(" sha=")[0])
    with tempfile.TemporaryDirectory() as folder:
        redis = Redis(folder)
        try:
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
        finally:
            redis.process.terminate()
            redis.process.wait()


if __name__ == "__main__":
    main()
