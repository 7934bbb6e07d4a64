"""``dispatcher relay``: run one relay until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

from dispatcher.bus import Bus
from dispatcher.cli.first_look import look_at_database
from dispatcher.cli.options import (
    DatabaseUrl,
    LogFormat,
    MetricsPort,
    Namespace,
    NatsUrl,
    Schema,
    StreamsConf,
    load_settings,
    require_nats,
)
from dispatcher.cli.output import guard
from dispatcher.collector import calm
from dispatcher.failpoints import arm
from dispatcher.logs import configure_logging
from dispatcher.loop import run
from dispatcher.probes import Probes
from dispatcher.relay.service import Relay
from dispatcher.settings import Settings
from dispatcher.streams.config import load

__all__ = ["command", "run_relay"]


async def run_relay(settings: Settings, streams: Any) -> None:
    """Connect, relay, and stop in order at SIGTERM or SIGINT."""
    bus = await Bus.connect(settings, name="dispatcher relay")
    try:
        relay = Relay(settings, streams, bus)
        probes = Probes(relay.metrics.registry, relay.ready, relay.gauges.refresh)
        probes.serve(settings.metrics_port, settings.metrics_address)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, relay.stop)
        await relay.run()
    finally:
        await bus.close()


def command(
    database_url: DatabaseUrl = None,
    nats_url: NatsUrl = None,
    schema: Schema = None,
    namespace: Namespace = None,
    streams_conf: StreamsConf = None,
    metrics_port: MetricsPort = None,
    log_format: LogFormat = None,
) -> None:
    """Carry committed tasks to the stream; run timers, rescue and reconcile.  Any number may run, one leads."""
    with guard():
        settings = load_settings(
            database_url=database_url,
            nats_url=nats_url,
            db_schema=schema,
            namespace=namespace,
            streams_conf=streams_conf,
            metrics_port=metrics_port,
            log_format=log_format,
        ).direct()
        require_nats(settings)
        arm("dispatcher.relay.failpoints")
        streams = load(settings.streams_conf)
        configure_logging(settings.log_format)
        look_at_database(settings)
        calm()
        run(run_relay(settings, streams))
