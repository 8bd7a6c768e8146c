"""One tuning run: configuration, folder, loop, TensorBoard, export and confirmation."""
