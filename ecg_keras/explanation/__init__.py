"""Why a network answers as it does: methods, and a page for each recording."""
