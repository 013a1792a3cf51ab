"""KEDA's external scaler protocol: `externalscaler.proto` as KEDA 2.20.1 has it (Apache 2.0), and
what `generate.sh` makes of it."""
