"""What every serving process shares: settings, life cycle, gRPC edge, deadlines, batching, metrics."""
