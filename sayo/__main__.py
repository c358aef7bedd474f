"""`python -m sayo`, for launchers that start modules."""

from sayo.cli import app

if __name__ == "__main__":
    app()
