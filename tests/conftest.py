"""Lists the fixture plugins, nothing else."""

pytest_plugins = [
    "tests.fixtures.environment",
    "tests.fixtures.fleet",
    "tests.fixtures.servers",
    "tests.fixtures.cluster",
]
