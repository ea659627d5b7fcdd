"""The sum y = S(x) + f(x): shortcuts, and the residual blocks of convolutional networks."""
