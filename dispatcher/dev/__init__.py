"""A whole system on one machine: what ``dispatcher dev`` keeps up and the demo is made of."""
