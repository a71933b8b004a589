"""What every serving process shares: settings, life cycle, gRPC servers, deadlines, batching, metrics."""
