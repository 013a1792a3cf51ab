"""The region's Kubernetes cluster: watches, reviews, the Lease. Uses no other room."""
