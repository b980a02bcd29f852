"""M3I pre-training in JAX: every pre-training method is a row of one table.

    loss = sum_k - log P_k( z_y^k | f_psi_k( f_theta(X), t_x, t_y^k ) )

(Su et al., "Towards All-in-one Pre-training via Maximizing Multi-modal
Mutual Information", CVPR 2023, eq. 4; the balance of its two groups: eq. 13.)

Where to find a symbol:

    y, t_x, t_y   views.py            two crops of a picture, where they lie
    X             inputs.py           a view as it is, masked, or two mixed
    f_theta       models/             the backbone
    z_y           representations.py  what is predicted, and by which encoder
    f_psi         decoders.py         from the input's tokens to a prediction
    P             distributions.py    Gaussian, Boltzmann, sigmoid, categorical
    H(z_y) > 0    regularizers.py     what keeps the target from collapsing
    lambda        balance.py          fixed, or from gradient norms (eq. 13)
    one row, k    target.py           - log P(z_y | zhat_y), and its parts
    sum_k         objective.py        the file to read first
    d L           gradient.py         one pass back for both groups
    -             step.py             one jitted function does a whole step

Letters in the docstrings' shapes: B batch, S side of a view in pixels, p side
of a patch in pixels, g = S / p side of the patch grid, L = g * g cells, K
visible cells of an image, Q cells asked for, N tokens, D width, T text length,
V vocabulary, C classes, M candidates. Cells count row by row from the top left.

The core (the files above and models/, positions.py, augment.py, captions.py,
monitors.py, partition.py) imports jax, flax, optax and numpy alone.
"""

__version__ = '0.1.0'
