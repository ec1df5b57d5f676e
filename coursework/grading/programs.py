"""Checks of what is read of a student's Pyro program: its sites, and the log-probability at the value of each."""

from .compare import same
from .submission import AnswerError


def expect_sites(sites, latent, observed, name):
    """Raises AnswerError unless the program has these sites, in a plate, the latent ones free."""
    for site in (*latent, *observed):
        if site not in sites:
            raise AnswerError(f"{name} has the sites {', '.join(sites) or 'none'}; {site} is missing")
        if not sites[site]["in_plate"]:
            raise AnswerError(f"{name} has the site {site} outside of a plate over the points")
        if sites[site]["observed"] != (site in observed):
            stands = "is observed, expected a draw" if site in latent else "is drawn, expected obs=..."
            raise AnswerError(f"the site {site} of {name} {stands}")
    for site in sites:
        if site not in (*latent, *observed):
            raise AnswerError(f"{name} has a site {site} too many")


def same_density(site, expected, mistakes, name):
    """The log-probability of a site, at its value, of each point: it must be `expected` (N,)."""
    if site["log_prob"].dim() > 1 or site["log_prob"].numel() < len(expected):
        raise AnswerError(
            f"log {name} has the shape {tuple(site['log_prob'].shape)}, expected a number per point: to_event"
        )
    same(site["log_prob"], expected, mistakes, f"log {name} of a point", 1e-6)
