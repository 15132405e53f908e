"""The proof: the counter beside flask_patch and Flask-SQLAlchemy, which has an environment of its own."""
