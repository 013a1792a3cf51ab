# SPDX-License-Identifier: Apache-2.0
"""One cloud's part of a site: a module for each kind of object compares the wanted with the found objects."""
