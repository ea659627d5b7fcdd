"""Second derivatives of a loss: Hessian and Gauss–Newton products, spectra, and the loss landscape."""
