$findings$;
