"""Recording a function: arguments, fake tensors, symbolic sizes, transforms, conditions and loops."""
