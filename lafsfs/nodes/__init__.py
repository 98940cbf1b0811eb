"""What a capability stands for."""
