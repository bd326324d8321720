"""An export form: the number of weights that each layer keeps, as text."""


def counts(ticket, *, separator: str = " "):
    lines = [f"{name}{separator}{int(mask[0].sum())}" for name, mask in ticket.mask.items()]
    return "\n".join(lines).encode()
