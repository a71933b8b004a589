"""Who may call a gateway: API keys and certificates with scopes and limits, where they are kept, and their check."""
