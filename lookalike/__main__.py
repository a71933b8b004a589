"""The command line: the table of all commands. Runs the one that the arguments name."""

from __future__ import annotations

import os
import sys

from lookalike.cli.dispatch import Command, dispatch

COMMANDS = {
    "demo": Command("lookalike.demo.command:main", "run the whole system on this machine and show real answers"),
    "search": Command("lookalike.cli.search:main", "search a gateway for similar products"),
    "duplicates": Command("lookalike.cli.duplicates:main", "search a gateway for near-duplicates of a product"),
    "classify": Command("lookalike.cli.classify:main", "ask a gateway for the category of a product, photo or title"),
    "admin status": Command("lookalike.cli.admin:status", "show what a gateway serves, and from what"),
    "admin releases": Command("lookalike.cli.admin:releases", "list the releases that a gateway can let serve"),
    "admin cut-over": Command("lookalike.cli.admin:cut_over", "let a release serve"),
    "admin rollback": Command("lookalike.cli.admin:roll_back", "let the release serve that served before"),
    "admin canary": Command("lookalike.cli.admin:canary", "let a release answer a share of searches, or none"),
    "admin keys": Command("lookalike.cli.admin:keys", "list the API keys of a gateway"),
    "admin create-key": Command("lookalike.cli.admin:create_key", "make an API key"),
    "admin revoke-key": Command("lookalike.cli.admin:revoke_key", "remove an API key"),
    "admin flush-cache": Command("lookalike.cli.admin:flush_cache", "forget cached answers"),
    "admin drain": Command("lookalike.cli.admin:drain", "stop a gateway or a node without a failed call"),
    "catalog sample": Command("lookalike.demo.sample.command:main", "draw a sample catalogue"),
    "catalog import": Command(
        "pipeline.import_command:main", "turn a table from elsewhere and photos into a catalogue"
    ),
    "catalog sync": Command(
        "pipeline.sync.command:main", "publish what changed in a SQL database, or make a catalogue of it"
    ),
    "catalog upsert": Command(
        "lookalike.cli.catalog.change:upsert", "add a product to what a gateway serves, or replace it"
    ),
    "catalog patch": Command(
        "lookalike.cli.catalog.change:patch", "change some fields of a product, such as its price"
    ),
    "catalog remove": Command("lookalike.cli.catalog.remove:main", "remove a product, or all that pass conditions"),
    "catalog write": Command("lookalike.cli.catalog.write:main", "make the changes in a file, any number of them"),
    "catalog get": Command("lookalike.cli.catalog.read:get", "show a product that a gateway serves"),
    "catalog list": Command("lookalike.cli.catalog.read:list_products", "list the products that a gateway serves"),
    "catalog export": Command(
        "lookalike.cli.catalog.export:main", "write the products that a gateway serves to a catalogue's file"
    ),
    "catalog check": Command("pipeline.catalogue_check:main", "report the bad rows of a catalogue"),
    "catalog publish": Command(
        "pipeline.publish_command:main", "put the products of a file on the stream that workers take them from"
    ),
    "catalog watch": Command(
        "pipeline.watch_command:main", "publish what changes in a catalogue's directory, until stopped"
    ),
    "catalog dead-letters": Command(
        "pipeline.dead_letters_command:main", "list, show, replay and drop the events that workers gave up on"
    ),
    "catalog reencode": Command(
        "pipeline.reencode_command:main", "encode anew the products that changed while an update ran"
    ),
    "encoders export": Command("encoders.image.export:main", "write an image model as a versioned SavedModel"),
    "encoders serving-config": Command("encoders.serving.config_files:main", "write TF-Serving's configuration files"),
    "encoders list": Command("encoders.image.list_models:main", "list the versions of the image model"),
    "encoders train-text": Command("encoders.text.train:main", "train the text encoder on a catalogue's words"),
    "encoders evaluate": Command("pipeline.evaluate:main", "report how good the neighbours of an index are"),
    "index build": Command("index.building.build_command:main", "index vectors you already have"),
    "index tune": Command("index.building.tune:main", "choose how to compress your vectors, by measuring"),
    "index inspect": Command("index.building.inspect:main", "show and verify an index location"),
    "versions": Command(
        "index.building.versions:main", "list the versions of an index, try one, let one serve, drop one"
    ),
    "versions show": Command("pipeline.versions.show_command:main", "show everything that is known of a version"),
    "versions diff": Command("pipeline.versions.diff_command:main", "say what differs between two versions"),
    "versions golden": Command(
        "pipeline.versions.golden_command:main", "write examples with what a version finds, for the gate"
    ),
    "versions gc": Command("pipeline.versions.gc_command:main", "remove the versions that nothing needs any more"),
    "update": Command(
        "pipeline.update.command:main", "encode a catalogue and build a new version of the index from it"
    ),
    "features": Command(
        "pipeline.features_command:main", "list the computed vectors of photos and texts, compact or drop them"
    ),
    "keys create": Command("lookalike.access.command:create", "make an API key for callers of a gateway"),
    "keys list": Command("lookalike.access.command:list_keys", "list the API keys, without their secrets"),
    "keys revoke": Command("lookalike.access.command:revoke", "remove an API key"),
    "keys rotate": Command("lookalike.access.command:rotate", "make the successor of an API key"),
    "sizing": Command("pipeline.sizing.command:main", "say how many machines a catalogue needs, and why"),
    "serve gateway": Command("server.app:main", "the gRPC gateway"),
    "serve shard": Command("index.serving.shard:main", "one shard of the index"),
    "serve node": Command("node.app:main", "a gateway and all shards of an index in one process"),
    "serve text-encoder": Command("encoders.text_serving.server:main", "the text and product encoders of the index"),
    "serve model-server": Command("encoders.serving.model_server:main", "the image encoder, by TF-Serving's protocol"),
    "serve worker": Command("pipeline.worker.app:main", "a worker that makes the changes of product events"),
    "serve local": Command("lookalike.local.serve:main", "an index on this machine, without encoders"),
    "certs dev": Command(
        "lookalike.local.certs_command:main", "write a private CA, and a certificate of it for every role"
    ),
    "load": Command("loadtest.run:main", "load-test a gateway and compare its latencies with objectives"),
}


def main() -> int:
    return dispatch("lookalike", COMMANDS, sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(main())
