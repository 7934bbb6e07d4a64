"""The ``dispatcher`` command: ``main`` is the frame, every other module holds the commands of one noun or one verb."""
