"""``nanopd serve``"""

import argparse
import os
from dataclasses import replace

from nanopd.cli.engine_options import add_engine_options, engine_and_cluster
from nanopd.cli.trace_option import add_trace_option, traced
from nanopd.config import ServerConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = ServerConfig()
    group = parser.add_argument_group("HTTP")
    group.add_argument("--host", default=defaults.host, help="address to listen on (%(default)s)")
    group.add_argument("--port", type=int, default=defaults.port, help="0: any free one (%(default)s)")
    group.add_argument(
        "--api-key", default=os.environ.get("NANOPD_API_KEY"), help="clients must send it (default: $NANOPD_API_KEY)"
    )
    group.add_argument("--served-model-name", default=None, help="the name clients use (default: the model argument)")
    group.add_argument(
        "--max-body-bytes",
        type=int,
        default=defaults.max_body_bytes,
        help="longer request bodies are refused (%(default)s)",
    )
    group.add_argument(
        "--drain-timeout-s",
        type=int,
        default=defaults.drain_timeout_s,
        help="for requests under way at SIGTERM (%(default)s)",
    )
    group.add_argument(
        "--otlp-endpoint",
        default=os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"),
        help="OTLP/HTTP endpoint for OpenTelemetry spans of requests (default: $OTEL_EXPORTER_OTLP_ENDPOINT)",
    )
    add_trace_option(parser)
    add_engine_options(parser, workers="1C")


def run(args: argparse.Namespace) -> int:
    engine, cluster = engine_and_cluster(args)
    config = ServerConfig(
        host=args.host,
        port=args.port,
        api_key=args.api_key,
        served_model_name=args.served_model_name,
        max_body_bytes=args.max_body_bytes,
        drain_timeout_s=args.drain_timeout_s,
        otlp_endpoint=args.otlp_endpoint,
    )
    from nanopd.server.serve import serve  # after the options are known to be good: this import takes a while

    with traced(args.trace) as tracing:
        serve(replace(engine, **tracing), cluster, config, say=lambda line: print(line, flush=True))
    return 0
