"""Every measurement that the README quotes, one after the other."""

from __future__ import annotations

from benchmarks import audit, features, projection, streaming, tuning, what_if

if __name__ == "__main__":
    projection.main()
    audit.main()
    streaming.main()
    tuning.main([])
    what_if.main([])
    features.main()
