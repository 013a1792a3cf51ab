# SPDX-License-Identifier: Apache-2.0
"""One page for a whole site."""
