# The Stripe SDK. It brings its own list of authorities and heeds no variable for it, so it has to be
# told where the right one is.
import os

import stripe

stripe.ca_bundle_path = os.environ["SSL_CERT_FILE"]
client = stripe.StripeClient(os.environ["STRIPE_API_KEY"], max_network_retries=0)
charge = client.v1.charges.create({"amount": 100, "currency": "eur", "source": "tok_visa"})
print("answer:", charge.id)
print("environment:", sorted(os.environ.items()))
