// In a file of its own: the Content-Security-Policy forbids inline scripts.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, tryItOutEnabled: true, validatorUrl: null });
