"""Lists the fixture plugins, nothing else."""

pytest_plugins = [
    "tests.fixtures.commands",
    "tests.fixtures.environment",
    "tests.fixtures.fleet",
    "tests.fixtures.secured",
    "tests.fixtures.servers",
]
