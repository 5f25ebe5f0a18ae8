"""The agent: what answers the relay at a site, over gRPC.

The relay may be anyone's code. All that it can do is to deliver envelopes, which the coordinator signed or
which come to nothing, and to ask how things are. Whatever it does not finish in time is cancelled; what it
may hold at once is bounded, in streams and in bytes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextlib import suppress

import grpc

from client.agent.mailbox import Mailbox
from client.agent.quota import Intake, Share, TooMuchError
from client.agent.worker import FullError, Worker
from client.training.cancellation import StoppedError
from privacy.errors import ProtocolError
from protocol.job.manifest import VERSION
from protocol.messages import confide_pb2 as pb
from protocol.messages.channel import LONGEST_CHUNK, in_chunks

log = logging.getLogger("confide.agent")

DELIVERIES = 12  # at once, whether they come in, wait or go out
_THREADS = DELIVERIES + 4  # so that Health is answered while all deliveries wait
TRANSFER_SECONDS = 120.0  # for an envelope to come in, or to go out


class Agent:
    """Answers the relay. ``pinned`` is the one certificate, DER, that it takes over TLS."""

    def __init__(
        self,
        mailbox: Mailbox,
        worker: Worker,
        *,
        site: str,
        intake: Intake | None = None,
        pinned: bytes | None = None,
        transfer_seconds: float = TRANSFER_SECONDS,
    ) -> None:
        self._mailbox = mailbox
        self._worker = worker
        self._telemetry = worker.telemetry
        self._site = site
        self._intake = intake or Intake()
        self._pinned = pinned
        self._transfer_seconds = transfer_seconds
        self._deliveries = threading.BoundedSemaphore(DELIVERIES)
        self._started = time.monotonic()

    def make_server(self) -> grpc.Server:
        """A gRPC server that listens nowhere yet."""
        server = grpc.server(
            futures.ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="delivery"),
            maximum_concurrent_rpcs=_THREADS,
            options=(
                ("grpc.max_receive_message_length", LONGEST_CHUNK),
                ("grpc.max_send_message_length", LONGEST_CHUNK),
                ("grpc.max_metadata_size", 8192),
                # Two servers must not share a port.
                ("grpc.so_reuseport", 0),
            ),
        )
        handlers = {
            "Deliver": grpc.stream_stream_rpc_method_handler(
                self._deliver,
                request_deserializer=pb.Chunk.FromString,
                response_serializer=pb.Chunk.SerializeToString,
            ),
            # As a stream, so that no thread waits for a question that was opened and never sent.
            "Health": grpc.stream_unary_rpc_method_handler(
                self._health,
                request_deserializer=pb.HealthRequest.FromString,
                response_serializer=pb.AgentHealth.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("confide.Agent", handlers),))
        return server

    def health(self) -> pb.AgentHealth:
        """How things are; nothing in it is the custodian's secret."""
        status = self._worker.status()
        return pb.AgentHealth(
            site=self._site,
            version=VERSION,
            state=status.state,
            run=status.run,
            round=status.round,
            step=status.step,
            steps=status.steps,
            queued=status.queued,
            uptime=time.monotonic() - self._started,
        )

    def _health(
        self, _requests: Iterable[pb.HealthRequest], context: grpc.ServicerContext
    ) -> pb.AgentHealth:
        self._check_peer(context)
        return self.health()

    def _deliver(self, chunks: Iterable[pb.Chunk], context: grpc.ServicerContext) -> Iterator[pb.Chunk]:
        self._check_peer(context)
        if not self._deliveries.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"{DELIVERIES} deliveries go on: come back later"
            )
        if not context.add_callback(self._deliveries.release):
            self._deliveries.release()
            return
        share = self._intake.share()
        try:
            reply = self._reply(self._receive(chunks, context, share), context, share)
            self._telemetry.sent(len(reply))
        finally:
            share.settle()
        with self._limited(context):
            yield from in_chunks(reply)

    def _receive(self, chunks: Iterable[pb.Chunk], context: grpc.ServicerContext, share: Share) -> bytes:
        """An envelope, as it arrives: nothing is set aside ahead of that."""
        parts = []
        try:
            with self._limited(context):
                for chunk in chunks:
                    share.take(len(chunk.data))
                    parts.append(chunk.data)
        except TooMuchError as error:
            code = grpc.StatusCode.INVALID_ARGUMENT if error.alone else grpc.StatusCode.RESOURCE_EXHAUSTED
            context.abort(code, str(error))
        self._telemetry.received(sum(map(len, parts)))
        return b"".join(parts)

    def _reply(self, envelope: bytes, context: grpc.ServicerContext, share: Share) -> bytes:
        """The sealed reply to an envelope; aborts the call if there is none."""
        try:
            opened = self._mailbox.open_request(envelope)
            del envelope  # long, and what is in it is on its own now
            future = self._worker.submit(opened)
            share.hold_until(future)
            _wait(future, context)
            reply = future.result(timeout=0)
            with self._telemetry.sealing():
                return self._mailbox.seal(opened.header, reply)
        except ProtocolError as error:
            log.warning("an envelope was turned away: %s", error)
            self._telemetry.turned_away(error)
            code, why = grpc.StatusCode.INVALID_ARGUMENT, str(error)
        except FullError as error:
            self._telemetry.turned_away(error)
            code, why = grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)
        except StoppedError:
            code, why = grpc.StatusCode.UNAVAILABLE, "the agent stops: ask its next life"
        except TimeoutError:
            code, why = grpc.StatusCode.CANCELLED, "whoever asked is gone"
        except Exception:
            log.exception("an envelope could not be answered")
            code, why = grpc.StatusCode.INTERNAL, "the agent failed; its own log says how"
        context.abort(code, why)
        return b""  # never: abort raises

    def _limited(self, context: grpc.ServicerContext) -> _Limit:
        return _Limit(context, self._transfer_seconds)

    def _check_peer(self, context: grpc.ServicerContext) -> None:
        """Over TLS, the one certificate that was provisioned, and no other that it may have signed."""
        if self._pinned is None:
            return
        shown = context.auth_context().get("x509_pem_cert", [])
        with suppress(ValueError):
            from cryptography import x509
            from cryptography.hazmat.primitives.serialization import Encoding

            if [x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER) for pem in shown] == [
                self._pinned
            ]:
                return
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "expected the relay's own certificate")


class _Limit:
    """Within this block a call must get on: it is cancelled when its time is over."""

    def __init__(self, context: grpc.ServicerContext, seconds: float) -> None:
        self._timer = threading.Timer(seconds, context.cancel)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_raised: object) -> None:
        self._timer.cancel()


def _wait(future: futures.Future[bytes], context: grpc.ServicerContext) -> None:
    """Wait for an answer, or until nobody waits for it any more."""
    over = threading.Event()
    if not context.add_callback(over.set):
        return
    future.add_done_callback(lambda _future: over.set())
    over.wait()
