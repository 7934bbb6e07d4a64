"""Lists the fixture plugins, nothing else.  A plugin that another one imports comes first."""

pytest_plugins = [
    "tests.fixtures.environment",
    "tests.fixtures.servers",
    "tests.fixtures.fleet",
    "tests.fixtures.cluster",
    "tests.fixtures.commands",
    "tests.fixtures.secured",
    "tests.fixtures.holder",
    "tests.fixtures.pooler",
]
