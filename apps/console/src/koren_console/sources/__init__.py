# SPDX-License-Identifier: Apache-2.0
"""Where the console's knowledge comes from: the broker, clusters, gateways, Prometheus, Alertmanager and logs."""
